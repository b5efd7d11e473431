/** Ctrl K: every page and every device without the mouse. */
import { useMantineColorScheme } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { Spotlight, type SpotlightActionData } from '@mantine/spotlight'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { useState, type ReactNode } from 'react'

import { devicePage } from '../api/queries'
import { deviceState } from '../parts/state'
import { DeviceIcon, DevicesIcon, MoonIcon, OverviewIcon, SearchIcon } from './icons'
import { recent } from './recent'
import { TABS } from './tabs'

/** Typing pauses so long before the hub is asked, in milliseconds. */
const TYPING_MS = 200
const DEVICES_SHOWN = 8

export default function Palette({ device }: { device: string | undefined }): ReactNode {
  const [text, setText] = useState('')
  const [asked] = useDebouncedValue(text.trim(), TYPING_MS)
  const navigate = useNavigate()
  const { toggleColorScheme } = useMantineColorScheme()
  const found = useQuery({
    queryKey: ['palette', asked],
    queryFn: ({ signal }) => devicePage({ search: asked }, undefined, DEVICES_SHOWN, signal),
    enabled: asked !== '',
    placeholderData: keepPreviousData,
  })
  const go = (to: string) => (): void => void navigate({ to })
  const matches = (...words: string[]): boolean => words.join(' ').toLowerCase().includes(text.trim().toLowerCase())
  const pages: SpotlightActionData[] = [
    { id: 'overview', label: 'Overview', leftSection: <OverviewIcon />, onClick: go('/') },
    { id: 'devices', label: 'Devices', leftSection: <DevicesIcon />, onClick: go('/devices') },
    { id: 'theme', label: 'Switch between light and dark', leftSection: <MoonIcon />, onClick: () => toggleColorScheme() },
  ].filter((page) => matches(page.label))
  const tabs: SpotlightActionData[] =
    device === undefined
      ? []
      : TABS.filter(([, name, words]) => matches(name, words)).map(([tab, name, words]) => ({
          id: tab,
          label: name,
          description: words,
          leftSection: <DeviceIcon />,
          onClick: () => void navigate({ to: tab, params: { device } }),
        }))
  const rows = asked === '' ? recent().map((id) => ({ id, words: '' })) : (found.data?.devices ?? []).map((row) => ({ id: row.deviceId, words: deviceState(row).words }))
  const devices: SpotlightActionData[] = rows
    .filter(({ id }) => matches(id))
    .map(({ id, words }) => ({ id: `device ${id}`, label: id, description: words, leftSection: <DeviceIcon />, onClick: go(`/devices/${encodeURIComponent(id)}`) }))
  const groups = [
    ...(tabs.length > 0 && device !== undefined ? [{ group: device, actions: tabs }] : []),
    ...(devices.length > 0 ? [{ group: 'Devices', actions: devices }] : []),
    ...(pages.length > 0 ? [{ group: 'Pages', actions: pages }] : []),
  ]
  return (
    <Spotlight
      actions={groups}
      query={text}
      onQueryChange={setText}
      // The hub searches; what it found is shown as it is.
      filter={(_, actions) => actions}
      nothingFound={found.isFetching ? 'Searching…' : 'No page and no device has this in its name'}
      shortcut={null}
      scrollable
      maxHeight={420}
      searchProps={{ leftSection: <SearchIcon />, placeholder: 'Page, or any part of a device id', 'aria-label': 'Go to page or device' }}
    />
  )
}
