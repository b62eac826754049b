"""Audits: experiments on the engine that is installed here, by the door that studies use."""
