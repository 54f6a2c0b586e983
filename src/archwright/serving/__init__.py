"""The gateway: OpenAI's HTTP interface before the plan's engines; every request known, decided, recorded, measured."""
