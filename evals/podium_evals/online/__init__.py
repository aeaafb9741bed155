"""Live traffic: experiments and drift, from the log of rankings that a server writes (`ranking_log`)."""
