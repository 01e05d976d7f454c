"""Contract that gateway and workers share: settings, catalog, job records, their store, storage and the queue."""
