"""The stores of a repository and the copies of packs in them."""
