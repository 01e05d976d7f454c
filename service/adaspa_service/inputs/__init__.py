"""Files that requests come with: received, or fetched from a URL; checked, fitted and kept in storage."""
