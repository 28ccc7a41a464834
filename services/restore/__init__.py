"""restore: gives recovery points back, whole or in part, and says where everything lies.

Purpose:   list recovery points; byte ranges; plans of whole restores; address translation; diff.
Consumes:  the catalog, and the object store's packs, by ranged GET.
Produces:  Restore* events in the catalog's log; bytes whose every chunk was compared with its id.
Owns:      nothing that survives it; leases in the catalog end by their deadline.
Never does: return a byte that it has not verified, or hand out a key that a plan does not need.
"""
