"""Files and folders: the stage cache, durable and atomic writes, locks, what killed processes leave."""
