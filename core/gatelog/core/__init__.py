"""What every part of gatelog shares: errors, domain types, settings, Postgres and Kafka access."""
