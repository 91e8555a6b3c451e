"""Give two models one vocabulary: a draft model or a student gets the ids and the number of rows of the other model."""
