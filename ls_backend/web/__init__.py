"""The HTTP doors: Label Studio's ML-backend protocol, the JSON API, metrics. Never imports torch."""
