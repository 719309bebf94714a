"""The journal on Postgres, shared by processes on any number of machines."""
