"""Files, configs and people: everything that turns a request into a run, and a run into an answer."""
