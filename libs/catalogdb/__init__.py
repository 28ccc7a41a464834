"""The catalog in Postgres: its schema and one function per transaction, with plain SQL inside.

Nothing else in Backcast writes these tables. Functions take a `Catalog`, do one transaction (or one
read), and return its outcome as a value; a refusal that the protocol expects is a value, not an
exception. All of them may be called again with the same arguments after a lost connection: the
answer is then that of the first call. Those declared `idempotent` do so by themselves, for as long
as the catalog they are given is patient.
"""
