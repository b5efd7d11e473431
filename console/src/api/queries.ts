/** What pages read, with the names under which it is kept. */
import { QueryClient, queryOptions } from '@tanstack/react-query'

import type { Json, JsonObject } from '../pure/json'
import { isObject, plain } from '../pure/json'
import { query } from '../pure/query'
import { startTime } from '../pure/start'
import { call, Failure, path, twinPath } from './client'
import type { DevicePage, DeviceView, MethodCalls, MethodResult, Overview, Session, TelemetryPage, Twin, Validation } from './types'

/** A failed read is tried again so many times, 1 s, then 2 s apart; refusals are not. */
const READ_RETRIES = 2
/** The live stream brings news. This is how old a read may be when a page is opened, in milliseconds. */
const FRESH_MS = 5_000
/** Rows of telemetry that the first view of a device shows. */
export const FIRST_ROWS = 2000
/** The most that one page of telemetry has. */
const PAGE_ROWS = 1000

export function makeQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: FRESH_MS,
        retry: (count, error) => count < READ_RETRIES && (!(error instanceof Failure) || error.status === 0 || error.status >= 500),
        retryDelay: (attempt) => 1000 * 2 ** attempt,
        refetchOnWindowFocus: true,
      },
      mutations: { retry: false },
    },
  })
}

export const overviewKey = ['overview']
export const deviceKey = (id: string): string[] => ['device', id]

export const overviewQuery = queryOptions({ queryKey: overviewKey, queryFn: ({ signal }) => call<Overview>('GET', '/api/v1/overview', { signal }) })

export const deviceQuery = (id: string) =>
  queryOptions({ queryKey: deviceKey(id), queryFn: ({ signal }) => call<DeviceView>('GET', `/api/v1/devices/${encodeURIComponent(id)}`, { signal }) })

export const twinQuery = (device: string, module: string | null) =>
  queryOptions({ queryKey: ['twin', device, module], queryFn: ({ signal }) => call<Twin>('GET', twinPath(device, module), { signal }) })

export type DeviceFilter = { search?: string | undefined; tag?: string[] | undefined; status?: string | undefined; connection?: string | undefined; edge?: string | undefined }

/** Pages that are fetched in a row when a filter finds little; then the person decides. */
const EMPTY_PAGES_MAX = 5

/** The next devices: goes on while a page is empty and more may come. */
export async function devicePage(filter: DeviceFilter, after: string | undefined, top: number, signal?: AbortSignal): Promise<DevicePage> {
  const pairs = Object.entries(filter).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((item) => [name, item || undefined] as const))
  let cursor = after
  let scanned = 0
  for (let page = 1; ; page += 1) {
    const got = await call<DevicePage>('GET', `/api/v1/devices?${query([['top', top], ...pairs, ['after', cursor]])}`, signal ? { signal } : {})
    scanned += got.scanned
    if (got.devices.length > 0 || got.next === null || page >= EMPTY_PAGES_MAX) return { ...got, scanned }
    cursor = got.next
  }
}

/** Which messages a telemetry tab shows. `since` is a start as `pure/start.ts` reads it. */
export type Wanted = { device: string; module?: string | undefined; filter?: string | undefined; since?: string | undefined }

/** The address of a page of messages: what is wanted, and where it begins. */
export function telemetryPath({ device, module, filter }: Wanted, place: { from: number } | { since: string }, max: number): string {
  return `/api/v1/telemetry?${query([['device', device], ['max', max], ['module', module], ['filter', filter], ...Object.entries(place)])}`
}

/**
 * Where the first view of a device's telemetry begins. Offsets count the messages of all devices
 * of a partition, so a quiet device among loud ones begins with fewer rows.
 */
export async function firstPlace(wanted: Wanted, signal: AbortSignal): Promise<number> {
  const time = startTime(wanted.since, Date.now())
  if (time !== undefined) {
    const at = new Date(time).toISOString()
    const { next, messages } = await call<TelemetryPage>('GET', telemetryPath({ device: wanted.device }, { since: at }, 1), { signal })
    return messages[0]?.offset ?? next
  }
  const { end, first } = await call<TelemetryPage>('GET', telemetryPath({ device: wanted.device }, { from: 0 }, 1), { signal })
  return Math.max(first, end - FIRST_ROWS)
}

/** A page of messages, oldest first; the hub filters, and looks through so many that a page may be empty. */
export const messagesFrom = (wanted: Wanted, from: number, signal: AbortSignal): Promise<TelemetryPage> => call('GET', telemetryPath(wanted, { from }, PAGE_ROWS), { signal })

/** One message by its place. */
export const messageAt = (partition: number, offset: number, signal: AbortSignal): Promise<TelemetryPage> => call('GET', `/api/v1/telemetry?partition=${partition}&from=${offset}&max=1`, { signal })

export const exchange = (token: string): Promise<Session> => call('POST', '/api/v1/console/exchange', { body: { token } })
export const readSession = (): Promise<Session> => call('GET', '/api/v1/console/session')
export const signOut = (): Promise<void> => call('DELETE', '/api/v1/console/session')

export function saveTwin(device: string, module: string | null, patch: JsonObject, etag: string): Promise<Twin> {
  return call('PATCH', twinPath(device, module), { body: patch, ifMatch: etag })
}

export function invoke(device: string, module: string | null, name: string, payload: Json, seconds: number): Promise<MethodResult> {
  const limit = (seconds + 10) * 1000
  return call('POST', `${twinPath(device, module)}/methods`, { body: { methodName: name, payload, responseTimeoutInSeconds: seconds }, limit })
}

/** Calls of direct methods that one page of the history has. */
const CALLS_PAGE = 50
export const methodsKey = (device: string): string[] => ['methods', device]

/** Who called what on a device, newest first; `before` goes back in time. */
export const methodCalls = (device: string, before: number | undefined, signal: AbortSignal): Promise<MethodCalls> =>
  call('GET', `/api/v1/devices/${encodeURIComponent(device)}/methods?max=${CALLS_PAGE}${before === undefined ? '' : `&before=${before}`}`, { signal })

export const validate = (text: string, signal: AbortSignal): Promise<Validation> => call('POST', '/api/v1/validate/modules-content', { raw: text, signal })

export const applyContent = (device: string, text: string): Promise<void> => call('POST', `${path('devices', device)}/applyConfigurationContent`, { raw: text })

/** What is set on a device now, composed from its twins, in the form that is written. */
export async function currentContent(device: string, signal: AbortSignal): Promise<JsonObject> {
  const twin = (module: string): Promise<Twin> => call('GET', twinPath(device, module), { signal })
  const desired = async (module: string): Promise<JsonObject | undefined> => {
    try {
      return plain((await twin(module)).properties.desired)
    } catch (error) {
      if (error instanceof Failure && error.status === 404) return undefined
      throw error
    }
  }
  const [agent, hub] = await Promise.all([desired('$edgeAgent'), desired('$edgeHub')])
  const content: JsonObject = {}
  if (agent) content.$edgeAgent = { 'properties.desired': agent }
  if (hub) content.$edgeHub = { 'properties.desired': hub }
  for (const name of isObject(agent?.modules) ? Object.keys(agent.modules) : []) {
    const own = await desired(name)
    if (own && Object.keys(own).length > 0) content[name] = { 'properties.desired': own }
  }
  return { modulesContent: content }
}
