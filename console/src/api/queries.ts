/** What pages read, with the names under which it is kept. */
import { QueryClient, queryOptions } from '@tanstack/react-query'

import type { Json, JsonObject } from '../pure/json'
import { isObject, plain } from '../pure/json'
import { call, Failure, path, twinPath } from './client'
import type { DevicePage, DeviceView, MethodResult, Overview, Session, TelemetryPage, Twin, Validation } from './types'

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
  const query = new URLSearchParams({ top: String(top) })
  for (const [name, value] of Object.entries(filter)) for (const item of Array.isArray(value) ? value : [value]) if (item) query.append(name, item)
  let cursor = after
  let scanned = 0
  for (let page = 1; ; page += 1) {
    if (cursor !== undefined) query.set('after', cursor)
    const got = await call<DevicePage>('GET', `/api/v1/devices?${query}`, signal ? { signal } : {})
    scanned += got.scanned
    if (got.devices.length > 0 || got.next === null || page >= EMPTY_PAGES_MAX) return { ...got, scanned }
    cursor = got.next
  }
}

const telemetry = (device: string, from: number, max: number, signal: AbortSignal): Promise<TelemetryPage> =>
  call('GET', `/api/v1/telemetry?device=${encodeURIComponent(device)}&max=${max}&from=${from}`, { signal })

/**
 * Where the first view of a device's telemetry begins. Offsets count the messages of all devices
 * of a partition, so a quiet device among loud ones begins with fewer rows.
 */
export async function firstOffset(device: string, signal: AbortSignal): Promise<number> {
  const { end, first } = await telemetry(device, 0, 1, signal)
  return Math.max(first, end - FIRST_ROWS)
}

/** A page of a device's messages, oldest first. */
export const messagesFrom = (device: string, from: number, signal: AbortSignal): Promise<TelemetryPage> => telemetry(device, from, PAGE_ROWS, signal)

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
