"""Pictures: reconstructions, maps of classes and depth, and the sheets that show them."""
