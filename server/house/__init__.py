"""The coordinator's house: certificates, enrolment, the SuperLink and its filter."""
