"""The processes of the gateway: master, workers, dispatch of requests, reload of the configuration."""
