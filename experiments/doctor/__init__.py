"""`ceus doctor`: what of a machine, a store and a sweep would stand in the way of its runs."""
