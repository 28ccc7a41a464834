"""Whether a snapshot can be read: verifications, and the loop that asks for them."""
