"""The access gate: enrolment, verification, identification, and the audit trail of its decisions."""
