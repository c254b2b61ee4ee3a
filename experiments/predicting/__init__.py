"""`ceus predict`: the deployed model of a cell on the next patient."""
