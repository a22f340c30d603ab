"""Kinds of the messages whose answers the framing expects, and flags of these (`native/frames.pyx`). Pure."""

K_PARSE, K_BIND, K_DESCRIBE, K_EXECUTE, K_CLOSE, K_SYNC, K_QUERY = 1, 2, 3, 4, 5, 6, 7
K_FUNCTION, K_POISON = 8, 10
F_SWALLOW = 1  # ours: nothing of the answer goes to the client
F_OPENS = 2  # its rows, or some of them, are opened
