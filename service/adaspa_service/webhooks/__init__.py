"""Webhooks by the Standard Webhooks specification: which receivers may be called, the event, its signature, its way."""
