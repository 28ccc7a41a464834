"""The command ``backcast``: what people, scripts and schedules type.

Purpose: every job of a person, on a workstation or against a cluster, with one command.
Consumes: the public REST interfaces of the restore service and the coordinator.
Produces: text for people; with ``--json`` one object, or one per line, and nothing else.
Owns: the files that a restore writes. Local servers belong to `deploy.local`.
Never does: look into a database, a topic or the object store past what a service's answer names.
"""
