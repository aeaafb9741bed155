"""What people see: numbers, tables, bars, and what a job says of itself."""
