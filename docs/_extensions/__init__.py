"""What our documentation needs of Sphinx, and nobody else does."""
