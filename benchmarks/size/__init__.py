"""How much time and memory does a transplant take, by size of the model and of the vocabulary?"""
