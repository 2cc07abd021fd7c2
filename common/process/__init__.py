"""The process of a service: what it listens on, signals, workers, handover, TLS."""
