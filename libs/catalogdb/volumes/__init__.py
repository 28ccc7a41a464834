"""What becomes of volumes and groups after they were added; one transaction for each change."""
