"""One module for each command of the command line, or for each family of them."""
