"""The methods, one file each, written from the descriptions in their papers."""
