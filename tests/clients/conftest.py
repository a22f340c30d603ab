"""One stack for all client tests of a run; each test makes tables and keys of its own."""

from collections.abc import Iterator

import pytest

from tests.parts.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)  # the server runs as another user
    with Stack(folder) as running:
        yield running
