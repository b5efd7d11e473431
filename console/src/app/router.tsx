/** Every view is an address: page, tab, filters, range. */
import type { QueryClient } from '@tanstack/react-query'
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from '@tanstack/react-router'

import { readStart } from '../pure/start'
import { RANGES, type Range } from '../pure/time'
import { Lost, Shell } from './shell'

type Raw = Record<string, unknown>
type Word = string | undefined
/** What addresses may carry, by page. */
type DevicesSearch = { search?: Word; tag?: string[] | undefined; status?: Word; connection?: Word; edge?: Word }
type TelemetrySearch = { module?: Word; filter?: Word; since?: Word; message?: Word; series?: string[] | undefined; range?: Range | undefined }
type TwinSearch = { module?: Word; section?: Word }
type LogsSearch = { module?: Word; find?: Word }
type MethodsSearch = { module?: Word; method?: Word }
type SetModulesSearch = { view?: Word }

/** Text of an address, if it is there and not empty. */
const word = (raw: Raw, name: string): string | undefined => {
  const value = raw[name]
  return typeof value === 'string' && value !== '' ? value : typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined
}
const words = (raw: Raw, name: string): string[] | undefined => {
  const value = raw[name]
  const list = (Array.isArray(value) ? value : value === undefined ? [] : [value]).map(String).filter((item) => item !== '')
  return list.length > 0 ? list : undefined
}

const root = createRootRoute({ component: Shell, notFoundComponent: Lost })
const index = createRoute({ getParentRoute: () => root, path: '/', component: lazyRouteComponent(() => import('../pages/overview'), 'Overview') })
const entry = createRoute({
  getParentRoute: () => root,
  path: 'sign-in',
  beforeLoad: () => {
    throw redirect({ to: '/' })
  },
})
export const devicesRoute = createRoute({
  getParentRoute: () => root,
  path: 'devices',
  validateSearch: (raw: Raw): DevicesSearch => ({ search: word(raw, 'search'), tag: words(raw, 'tag'), status: word(raw, 'status'), connection: word(raw, 'connection'), edge: word(raw, 'edge') }),
  component: lazyRouteComponent(() => import('../pages/devices'), 'Devices'),
})
export const deviceRoute = createRoute({ getParentRoute: () => root, path: 'devices/$device', component: lazyRouteComponent(() => import('../pages/device'), 'Device') })
const modulesRoute = createRoute({ getParentRoute: () => deviceRoute, path: '/', component: lazyRouteComponent(() => import('../pages/device/modules'), 'Modules') })
export const telemetryRoute = createRoute({
  getParentRoute: () => deviceRoute,
  path: 'telemetry',
  validateSearch: (raw: Raw): TelemetrySearch => {
    const range = word(raw, 'range')
    return { module: word(raw, 'module'), filter: word(raw, 'filter'), since: readStart(word(raw, 'since')), message: word(raw, 'message'), series: words(raw, 'series'), range: range !== undefined && range in RANGES ? (range as Range) : undefined }
  },
  component: lazyRouteComponent(() => import('../pages/device/telemetry'), 'Telemetry'),
})
export const twinRoute = createRoute({
  getParentRoute: () => deviceRoute,
  path: 'twin',
  validateSearch: (raw: Raw): TwinSearch => ({ module: word(raw, 'module'), section: word(raw, 'section') }),
  component: lazyRouteComponent(() => import('../pages/device/twin'), 'TwinPage'),
})
export const logsRoute = createRoute({
  getParentRoute: () => deviceRoute,
  path: 'logs',
  validateSearch: (raw: Raw): LogsSearch => ({ module: word(raw, 'module'), find: word(raw, 'find') }),
  component: lazyRouteComponent(() => import('../pages/device/logs'), 'Logs'),
})
export const methodsRoute = createRoute({
  getParentRoute: () => deviceRoute,
  path: 'methods',
  validateSearch: (raw: Raw): MethodsSearch => ({ module: word(raw, 'module'), method: word(raw, 'method') }),
  component: lazyRouteComponent(() => import('../pages/device/methods'), 'Methods'),
})
export const pipelineRoute = createRoute({ getParentRoute: () => deviceRoute, path: 'pipeline', component: lazyRouteComponent(() => import('../pages/device/pipeline'), 'Pipeline') })
export const setModulesRoute = createRoute({
  getParentRoute: () => deviceRoute,
  path: 'set-modules',
  validateSearch: (raw: Raw): SetModulesSearch => ({ view: word(raw, 'view') }),
  component: lazyRouteComponent(() => import('../pages/device/set-modules'), 'SetModules'),
})

const tree = root.addChildren([
  index,
  entry,
  devicesRoute,
  deviceRoute.addChildren([modulesRoute, telemetryRoute, twinRoute, logsRoute, methodsRoute, pipelineRoute, setModulesRoute]),
])

export function makeRouter(queries: QueryClient) {
  return createRouter({ routeTree: tree, basepath: '/console', context: { queries }, defaultPreload: 'intent', defaultPendingMs: 200, scrollRestoration: true })
}

declare module '@tanstack/react-router' {
  interface Register {
    router: ReturnType<typeof makeRouter>
  }
}
