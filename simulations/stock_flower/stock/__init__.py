"""The app that Flower bundles."""
