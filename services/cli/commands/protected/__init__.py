"""Who and what is protected: volumes, sessions, tenants."""
