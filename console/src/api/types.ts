/** Shapes of the public API, as far as the console reads them. */
import type { Json, JsonObject } from '../pure/json'
import type { Route } from '../pure/routes'

export type Session = {
  id: string
  policy: string
  rights: string[]
  idleExpiresTime: string
  expiresTime: string
  csrfToken: string
  hub: { hostName: string; version: string }
}

export type Change = {
  sequence: number
  at: string
  kind: string
  deviceId: string
  moduleId: string | null
  version: number
  cause: string
}

export type FailingModule = { deviceId: string; moduleId: string; runtimeStatus: string; exitCode: number | null; description: string | null }

export type Overview = {
  asOf: string
  complete: boolean
  scanned: number
  devices: { total: number; enabled: number; disabled: number; edge: number; connected: number; stale: number; neverSeen: number; staleAfterSeconds: number }
  modules: { reported: number; running: number; failing: number; top: FailingModule[] }
  ingest: { messagesTotal: number; messagesPerSecond: number; stepSeconds: number; series: { at: string; messages: number }[] }
  recent: Change[]
}

export type DeviceRow = {
  deviceId: string
  status: string
  statusReason?: string | null
  connectionState: string
  stale: boolean
  lastActivityTime: string | null
  iotEdge: boolean
  tags: JsonObject
}
export type DevicePage = { devices: DeviceRow[]; next: string | null; scanned: number }

export type Identity = {
  deviceId: string
  status?: string
  statusReason?: string
  connectionState?: string
  connectionStateUpdatedTime?: string
  lastActivityTime?: string
  generationId?: string
  authentication?: { type?: string }
  capabilities?: { iotEdge: boolean }
}

export type ModuleView = {
  moduleId: string
  system: boolean
  desired: null | { status: string | null; image: string | null; restartPolicy: string | null; imagePullPolicy: string | null; startupOrder: number | null; version: string | null }
  reported: null | {
    runtimeStatus: string | null
    statusDescription: string | null
    exitCode: number | null
    restartCount: number | null
    lastStartTimeUtc: string | null
    lastExitTimeUtc: string | null
    lastRestartTimeUtc: string | null
    image: string | null
    imageDigest: string | null
  }
  failing: boolean
}

export type DeviceView = {
  device: Identity
  stale: boolean
  twins: { moduleId: string | null; etag: string; version: number; desiredVersion: number; reportedVersion: number; connected: boolean }[]
  edge: null | {
    lastDesiredVersion: number | null
    desiredVersion: number
    lastDesiredStatus: { code: number; description: string | null } | null
    modules: ModuleView[]
  }
}

export type Twin = {
  deviceId: string
  moduleId?: string
  etag: string
  version: number
  connectionState: string
  lastActivityTime: string
  tags: JsonObject
  properties: { desired: JsonObject; reported: JsonObject }
}

export type Message = {
  partition: number
  offset: number
  enqueuedTime: string
  deviceId: string
  moduleId?: string
  systemProperties: JsonObject
  properties: JsonObject
  body: string
  bodyEncoding: 'utf-8' | 'base64'
}
export type TelemetryPage = { partition: number; messages: Message[]; next: number; end: number; first: number }

export type MethodResult = { status: number; payload: Json }

/** One direct method of anybody, as the hub remembers it; never with its payload. */
export type MethodCall = { id: number; at: string; moduleId: string | null; method: string; by: string; status: number | null; error: string | null; durationMs: number }
export type MethodCalls = { calls: MethodCall[]; next: number | null }

export type ContentFault = {
  code: string
  message: string
  module: string | null
  path: string | null
  line?: number
  column?: number
  endLine?: number
  endColumn?: number
  from?: number
  to?: number
}
export type Validation = { valid: boolean; faults: ContentFault[]; notices?: ContentFault[]; routes: Route[]; modules: string[] }

export type Problem = { code: string; message: string }
export type LogLines = { lines: { at: string | null; level: number | null; text: string }[]; problem: Problem | null; pollSeconds: number }
export type TelemetryRows = { rows: Message[]; skipped: number }
export type PipelineView = {
  asOf: string | null
  problem: Problem | null
  uptimeSeconds: number | null
  routes: Route[]
  received: { from: string; output: string | null; total: number; perSecond: number | null }[]
  sent: { endpoint: string; priority: number; total: number; perSecond: number | null }[]
  queues: { endpoint: string; priority: number; length: number; oldestAgeSeconds: number | null }[]
  dropped: { endpoint: string | null; reason: string; total: number }[]
}
