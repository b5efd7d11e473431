/** The device that a tab belongs to. */
import { createContext, useContext } from 'react'

import type { DeviceView } from '../../api/types'

export const DeviceContext = createContext<{ id: string; view: DeviceView } | undefined>(undefined)

export function useDevice(): { id: string; view: DeviceView } {
  const held = useContext(DeviceContext)
  if (!held) throw new Error('outside of a device')
  return held
}

/** Names of modules: of the deployment and of module identities, system modules last. */
export function moduleNames(view: DeviceView): string[] {
  const names = new Set<string>()
  for (const module of view.edge?.modules ?? []) if (!module.system) names.add(module.moduleId)
  for (const twin of view.twins) if (twin.moduleId !== null && !twin.moduleId.startsWith('$')) names.add(twin.moduleId)
  for (const twin of view.twins) if (twin.moduleId !== null) names.add(twin.moduleId)
  return [...names]
}

/** Names of modules that run on the device and write logs. */
export function logNames(view: DeviceView): string[] {
  return (view.edge?.modules ?? []).filter((module) => !module.system).map((module) => module.moduleId)
}

/** As a word of a shell. */
export function quoted(text: string): string {
  return /^[\w.:@/-]+$/u.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
