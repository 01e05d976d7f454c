"""What gateway and workers share: settings, catalog, job records, their store, object storage and the queue."""
