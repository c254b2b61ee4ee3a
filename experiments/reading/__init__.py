"""Human readers beside the models: the page that they read at, and what they answered."""
