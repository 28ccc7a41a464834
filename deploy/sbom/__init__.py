"""The list of what our images install besides our own code (CycloneDX), with licences."""
