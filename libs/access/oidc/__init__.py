"""Tokens that an issuer (OIDC) makes for people: JWTs, judged by the issuer's public keys."""
