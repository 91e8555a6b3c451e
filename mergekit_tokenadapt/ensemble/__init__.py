"""Use several models as one: average their probabilities token by token or byte by byte.

In a lockstep ensemble, all members get one vocabulary, and the probabilities of each token are averaged (`build`; the
model class is in `models.lockstep`). In a byte ensemble, the members keep their vocabularies, and the probabilities of
each next byte are averaged (`byte_model`, `byte_ensemble`).
"""
