"""A plain Flower app, as Flower documents one, and how it is run: what a deployment is held to."""
