"""Bring your own key: a master key goes from one HSM into another under the control of M of N people.

Pure: `canonical` (one encoding), `documents` (what is signed), `approvals` (who has signed).
In tokens: `tokens` (the key never leaves them in clear). With files: `custodian`, `acts`, `state`.
"""
