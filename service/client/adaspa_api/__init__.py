"""The words and objects of the HTTP API: what gateways answer is what clients read. Needs pydantic alone."""
