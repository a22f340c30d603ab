"""SCRAM towards clients: agreement with scramp, the exchange of RFC 7677, and what is refused."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism

from proxy.postgres.client_login import ClientLogin, LoginFailed
from proxy.postgres.messages import Malformed
from proxy.postgres.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramFailed,
    ScramServer,
    Verifier,
    Verifiers,
    read_verifier,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


def verifier(password: str, salt: bytes = SALT, iterations: int = 4096) -> Verifier:
    _, stored, server, i = ScramMechanism("SCRAM-SHA-256").make_auth_info(
        password, iteration_count=iterations, salt=salt
    )
    return Verifier(i, salt, stored, server)


PENCIL = verifier("pencil")


def text_of(v: Verifier) -> str:
    salt, stored, server = (
        base64.b64encode(part).decode() for part in (v.salt, v.stored_key, v.server_key)
    )
    return f"SCRAM-SHA-256${v.iterations}:{salt}${stored}:{server}"


def test_exchange_of_rfc_7677():
    server = ScramServer(PENCIL, True, None, nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert server.first(MECHANISM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert server.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    ) == (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@settings(deadline=None, max_examples=25)
@given(password=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_agrees_with_scramp_whatever_the_password(password: str):
    server = ScramServer(verifier(password), True, b"binding")
    client = ScramClient(
        ["SCRAM-SHA-256-PLUS"],
        "any",
        password,
        channel_binding=("tls-server-end-point", b"binding"),
    )
    first = server.first(MECHANISM_PLUS, client.get_client_first().encode())
    client.set_server_first(first.decode())
    client.set_server_final(server.final(client.get_client_final().encode()).decode())


def exchange(server: ScramServer, password: str, **options: object) -> bytes:
    client = ScramClient(["SCRAM-SHA-256"], "any", password, **options)
    first = server.first(MECHANISM, client.get_client_first().encode())
    client.set_server_first(first.decode())
    return server.final(client.get_client_final().encode())


def test_wrong_password_and_unknown_user_fail_alike():
    table = Verifiers({"alice": PENCIL}, b"mock")
    for user, password in (("alice", "pen"), ("nobody", "pencil"), ("nobody", "")):
        with pytest.raises(ScramFailed) as caught:
            exchange(ScramServer(*table.look_up(user), None), password or "x")
        assert str(caught.value) == "the proof does not hold"
    assert exchange(ScramServer(*table.look_up("alice"), None), "pencil").startswith(b"v=")


def test_unknown_user_has_a_salt_of_its_own_that_stays():
    table = Verifiers({"alice": PENCIL})
    bob, real = table.look_up("bob")
    assert not real
    assert (bob.iterations, len(bob.salt)) == (PENCIL.iterations, len(PENCIL.salt))
    assert bob == Verifiers({"alice": PENCIL}).look_up("bob")[0]
    assert bob.salt != table.look_up("carol")[0].salt
    assert bob.salt != Verifiers({"alice": PENCIL}, b"other").look_up("bob")[0].salt


def test_even_the_keys_of_the_mock_secret_let_nobody_in():
    """Who knows that StoredKey is zero still cannot prove anything: the result is not looked at."""
    server = ScramServer(
        Verifier(4096, SALT, hashlib.sha256(bytes(32)).digest(), bytes(32)), False, None
    )
    first = server.first(MECHANISM, b"n,,n=,r=abc")
    nonce = first.split(b",")[0]
    signed = b"n=,r=abc," + first + b",c=biws," + nonce
    signature = hmac.digest(hashlib.sha256(bytes(32)).digest(), signed, "sha256")
    with pytest.raises(ScramFailed):
        server.final(b"c=biws," + nonce + b",p=" + base64.b64encode(signature))


def test_other_channel_is_refused():
    server = ScramServer(PENCIL, True, b"the certificate that we show")
    client = ScramClient(
        ["SCRAM-SHA-256-PLUS"], "u", "pencil",
        channel_binding=("tls-server-end-point", b"the certificate of somebody in between"),
    )  # fmt: skip
    client.set_server_first(
        server.first(MECHANISM_PLUS, client.get_client_first().encode()).decode()
    )
    with pytest.raises(ScramFailed, match="channel binding"):
        server.final(client.get_client_final().encode())


def test_client_that_was_told_we_cannot_bind_is_refused():
    server = ScramServer(PENCIL, True, b"binding")
    with pytest.raises(ScramFailed, match="negotiation"):
        server.first(MECHANISM, b"y,,n=,r=abc")


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (b"SCRAM-SHA-1", b"n,,n=,r=abc"),
        (MECHANISM, b""),
        (MECHANISM, b"n,,"),
        (MECHANISM, b"n,,n=u"),
        (MECHANISM, b"n,a=admin,n=,r=abc"),
        (MECHANISM, b"n,,m=x,n=,r=abc"),
        (MECHANISM, b"n,,n=,r="),
        (MECHANISM, b"n,,n=,r=\xff"),
        (MECHANISM, b"p=tls-server-end-point,,n=,r=abc"),
        (MECHANISM_PLUS, b"n,,n=,r=abc"),
        (MECHANISM_PLUS, b"p=tls-unique,,n=,r=abc"),
    ],
)
def test_malformed_first_message(mechanism: bytes, message: bytes):
    with pytest.raises(Malformed):
        ScramServer(PENCIL, True, b"b").first(mechanism, message)


@pytest.mark.parametrize(
    "message",
    [b"", b"c=biws", b"c=biws,r=abcOTHER,p=AAAA", b"r=abcN,c=biws,p=AAAA", b"c=biws,r=abcN,p=AAAA",
     b"c=biws,r=abcN,p=!"],
)  # fmt: skip
def test_malformed_final_message(message: bytes):
    server = ScramServer(PENCIL, True, None, nonce=b"N")
    server.first(MECHANISM, b"n,,n=,r=abc")
    with pytest.raises(Malformed):
        server.final(message)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_break_anything_but_the_log_in(first: bytes, final: bytes):
    login = ClientLogin("u", Verifiers({"u": PENCIL}), b"b", False)
    login.offer()
    for message in (b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first, final):
        with pytest.raises((Malformed, LoginFailed)):
            login.receive(message)
    assert not login.done


def test_secret_is_read_as_postgresql_writes_it():
    assert read_verifier(text_of(PENCIL)) == PENCIL
    assert "pencil" not in repr(PENCIL) and "b'" not in repr(PENCIL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5c5a2b5e8d8b5d7f6e1c1d2e3f4a5b6c7",
        "SCRAM-SHA-256$0:c2FsdA==$AAAA:AAAA",
        text_of(PENCIL).replace("4096", "99999999"),
        text_of(PENCIL).replace("$4096", "$4096:"),
        text_of(PENCIL)[:-6],
    ],
)
def test_other_secrets_are_refused_without_being_shown(text: str):
    with pytest.raises(ValueError, match=".") as caught:
        read_verifier(text)
    assert not text or text not in str(caught.value)


def test_required_binding_without_tls_offers_nothing():
    with pytest.raises(LoginFailed, match="channel binding is required"):
        ClientLogin("u", Verifiers({"u": PENCIL}), None, True).offer()
