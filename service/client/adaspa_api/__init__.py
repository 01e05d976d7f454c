"""Objects and enumerations of the HTTP API, shared by gateway and client. Requires only pydantic."""
