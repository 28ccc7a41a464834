"""What every process needs: settings, logs, signals, health, metrics, HTTP. It knows no domain."""
