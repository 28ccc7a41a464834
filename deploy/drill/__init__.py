"""``make drill``: lose Postgres and Kafka, keep the bucket and the recovery sheet, restore all."""
