"""HTTP gateway: validates requests, admits jobs, tells how they stand, serves their files."""
