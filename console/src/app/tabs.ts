/** The tabs of a device: address, name, what is there. */
export const TABS = [
  ['/devices/$device', 'Modules', 'desired and reported status, restarts, exit codes'],
  ['/devices/$device/pipeline', 'Pipeline', 'modules and routes, rates, queues, drops'],
  ['/devices/$device/telemetry', 'Telemetry', 'messages as they arrive, charts, anomalies'],
  ['/devices/$device/twin', 'Twin', 'tags, desired and reported properties'],
  ['/devices/$device/logs', 'Logs', 'lines of each module'],
  ['/devices/$device/methods', 'Methods', 'call a direct method, see earlier calls'],
  ['/devices/$device/set-modules', 'Set modules', 'edit the deployment manifest'],
] as const
