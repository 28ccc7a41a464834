"""What is given up and deleted: retention, collection, the sweep of orphans, rewriting."""
