"""Several models as one: their probabilities averaged, token by token or byte by byte.

Lockstep: the members are put onto one vocabulary, and averaged for every token (`lockstep`, `build`).
Byte by byte: the members stay as they are; each is asked for the next byte (`byte_model`,
`byte_ensemble`).
"""
