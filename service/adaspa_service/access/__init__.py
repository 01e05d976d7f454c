"""Access to the service."""
